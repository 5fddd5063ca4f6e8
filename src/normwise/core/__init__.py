"""The one idea: a small formula on the table of per-(sample, channel) moments."""
