"""What every process needs in order to be a process: settings, logs, metrics, calls, life and death.

It owns no product rule and imports no service. Import the modules, not this package.
"""
