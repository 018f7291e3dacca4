"""The masker, what it reads, what it is trained against, and by which loss."""
