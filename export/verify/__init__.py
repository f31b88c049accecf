"""How far an exported file is from the network."""
