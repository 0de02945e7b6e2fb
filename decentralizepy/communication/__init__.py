"""Who is where: addresses, ports, keys, and the options of [COMMUNICATION]."""
