"""From a classifier's graph to the explainer's: added outputs, precision, and the file."""
