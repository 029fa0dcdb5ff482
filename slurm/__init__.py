"""Who runs where: clusters, sweeps, submission and watching, through submitit."""
