"""Dead letters: stored, listed, replayed, discarded."""
