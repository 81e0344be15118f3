"""A model and a dataset in, a model out: methods (PEFT), stages (TRL), local inference; the only home of torch.

`training.specs` and `training.environment` are light; everything else imports torch and runs in a process of its own,
started with `python -m training.worker JOB.json RESULT.json` or forked by `python -m training.host`.
"""
