"""What a step keeps on the card or in host memory between its forward and its backward pass, and what that takes."""
