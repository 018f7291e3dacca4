"""Photos and labels to train on, in batches."""
