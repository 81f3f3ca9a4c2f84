"""What is decided before anything is computed: cost, layout of replicas, which seeds go on. No torch, no ray."""
