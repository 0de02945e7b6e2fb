"""How large the models are, for planning without torch; a test builds each and counts.

Each entry is (trainable parameters, elements of floating-point buffers). What a node sends of a
model is their sum, 4 bytes each. Batch norm's integer counters (`num_batches_tracked`) stay local
and are not counted; the reference sends them too, so its `state_dict` totals are larger by one per
batch norm layer: 9 for ResNet8 (4,937,729), 20 for ResNet18 (11,198,932) and RNET (2,816,498).
"""

MODEL_SIZES: dict[str, tuple[int, int]] = {
    "decentralizepy.models.cifar10.CNN": (62_006, 0),
    "decentralizepy.models.cifar10.LeNet": (89_834, 0),
    "decentralizepy.models.cifar10.ResNet8": (4_932_344, 5_376),
    "decentralizepy.models.cifar10.ResNet18": (11_189_312, 9_600),
    "decentralizepy.models.cifar10.GN_ResNet18": (11_189_312, 0),
    "decentralizepy.models.digits.MLP": (4_810, 0),
    "decentralizepy.models.digits.DropoutMLP": (4_810, 0),
    "decentralizepy.models.digits.CNN": (3_818, 0),
    "decentralizepy.models.femnist.LogisticRegression": (48_670, 0),
    "decentralizepy.models.femnist.CNN": (1_690_046, 0),
    "decentralizepy.models.femnist.RNET": (2_811_678, 4_800),
    "decentralizepy.models.femnist.GN_RNET": (2_811_678, 0),
}
