"""How one machine is reached: this computer, by SSH, or through a folder that both see."""
