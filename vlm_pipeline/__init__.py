"""Fine-tune small vision-language models on your own rows, compare them honestly, and improve the weak sections."""

__version__ = "0.1.0"
