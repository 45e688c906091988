"""Where a payload runs. The payload's side is `payload`, the launcher's side is `launch`."""
