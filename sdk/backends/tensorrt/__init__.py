"""TensorRT: engines built on the device they run on, cached, checked and executed."""
