"""All attacks under one name; importing this loads torch."""

from results.attacks.attribute import attribute as attribute
from results.attacks.classifier import Learning as Learning
from results.attacks.classifier import classifier as classifier
from results.attacks.colluders import colluders as colluders
from results.attacks.linkability import linkability as linkability
from results.attacks.lira import lira as lira
from results.attacks.losstable import loss_table as loss_table
from results.attacks.reconstruction import reconstruction as reconstruction
from results.attacks.saved import find as find
from results.attacks.threshold import threshold as threshold
from results.attacks.topk import topk as topk
from results.attacks.world import world as world
