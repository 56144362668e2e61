"""What renders and moves: the protocol, the embedded simulator, habitat-sim, and the choice between them."""
