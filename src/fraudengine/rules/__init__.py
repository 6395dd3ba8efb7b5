"""Rule files: read with positions, checked, linked into effective rule sets, reloaded while running."""
