"""What a task takes on which machine, from a thousand rows to a hundred million, before anything is started."""
