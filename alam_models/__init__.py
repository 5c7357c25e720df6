"""What the networks are: the latent action model, the joint flow policy, their contract, export and runtimes."""
