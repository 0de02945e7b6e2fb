"""What a message between nodes is: named tensors, and the header that describes them."""
