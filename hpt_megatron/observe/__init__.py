"""What a run says about itself: numbers, decisions, the live display."""
