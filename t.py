import sys, time

t = time.time()
from adapters.plugin_files import of_recipe, score_hash
from adapters import recipe_file

f = recipe_file.load(sys.argv[1])
t1 = time.time()
for p in of_recipe(f.recipe, f.folder):
    print(p)
print(
    [m for m in sys.modules if m.split(".")[0] in ("rewards", "torch", "rapidfuzz")], time.time() - t1, time.time() - t
)
