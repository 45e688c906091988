"""A loopback stand-in of the hosted APIs, for tests and for trying things out without a key.

It speaks what the real openai and anthropic clients speak: chat completions and responses with images, files,
fine-tuning jobs with events and checkpoints, batches, Anthropic messages, and Azure's paths. Its models are called
`stand-in-…`, so that no table can pass its answers off as a provider's. Under `faults` it misbehaves at a seeded
rate: 429 with Retry-After, 500, slow, cut and malformed answers. What it has computed counts as paid, once per
Idempotency-Key, also when the answer is then lost on the way.

    python -m vlm_pipeline_tests.servers.hosted_api --port 8123 --faults 0.3
"""
