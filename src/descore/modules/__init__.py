"""The LightningModules: one a stage, and one for the checklist baseline."""
