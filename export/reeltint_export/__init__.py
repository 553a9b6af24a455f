"""Checkpoint -> ONNX -> model repository; nothing here is needed to serve what it writes."""
