"""Pages of ours: one look for all of them, the frame around them, and the shapes that pictures are made of."""
