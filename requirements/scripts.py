"""Write the commands of this virtual environment anew: each names the interpreter by its whole path, which a move changes."""

import sysconfig
from importlib.metadata import entry_points

from pip._vendor.distlib.scripts import ScriptMaker

maker = ScriptMaker(None, sysconfig.get_path("scripts"))
maker.clobber = maker.set_mode = True
maker.variants = {""}
for each in entry_points(group="console_scripts"):
    maker.make(f"{each.name} = {each.value.partition(' ')[0]}")
