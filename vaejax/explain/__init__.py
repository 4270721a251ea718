"""Eight experiments that show what log p(x) is, and the page they make."""
