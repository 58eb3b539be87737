"""A task small enough to train a thousand policies on, and to measure without sampling."""
