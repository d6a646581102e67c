"""The paper's comparisons side by side, at a small scale: trained, measured, drawn and shown on one page."""
