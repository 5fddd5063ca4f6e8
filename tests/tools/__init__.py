"""Other people's tools around the layers."""
