"""Results as files: pictures, arrays and the formats they are written in."""
