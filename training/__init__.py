"""How weights come to be: demonstrations, pretraining, transfer, evaluation."""
