"""Networks read off the names of their variables, for checkpoints whose graph is lost.

`assign_roles` says what each variable is for; `program_from_names` makes a program of them.
"""

from bnexport.scopes.reading import assign_roles, full_names
from bnexport.scopes.roles import VariableRole
from bnexport.scopes.walk import program_from_names

__all__ = ["VariableRole", "assign_roles", "full_names", "program_from_names"]
