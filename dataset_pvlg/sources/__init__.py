"""Where P-VLG rows come from: one reader per public layout, and the embedded synthetic generator."""
