"""Photos in: decoding, checking, fitting to the model's input, and the way back."""
