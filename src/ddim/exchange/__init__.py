"""Other programs: diffusers, ONNX, the Hub, and the cards of exported models."""
