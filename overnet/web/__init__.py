"""The page in the browser that ``overnet web`` serves."""
