# SPDX-License-Identifier: GPL-2.0-only
"""
Checks of the repository itself, for rig/check: that the series makes the tree, that KVM
allows what it exports, that documents name tests that exist, that the semantic patches
flag what they should, that the descriptions for syzkaller match the headers. Each gives
its findings: a file, a line and a text.
"""
import filecmp
import glob
import os
import re
import shutil
import subprocess
import tempfile

from lib import BASE, SRC, TOP, read

LAB = os.path.join(TOP, "lab")
COCCI = os.path.join(LAB, "cocci")


def line_of(text, part):
    """The number of the line of a text that contains this part"""
    return text[:text.find(part)].count("\n") + 1


# ---- the series

def differences(one, other, path=""):
    """Files that are not the same in both folders"""
    one, other = os.path.join(one, ""), os.path.join(other, "")
    names = set(os.listdir(one + path)) | set(os.listdir(other + path))
    for name in sorted(os.path.join(path, name) for name in names):
        if os.path.isdir(one + name) and os.path.isdir(other + name):
            yield from differences(one, other, name)
        elif not (os.path.isfile(one + name) and os.path.isfile(other + name) and
                  filecmp.cmp(one + name, other + name, shallow=False)):
            yield name


def series(run):
    """Merges the patches into a pristine tree, writes them back and makes the commits"""
    touched = {"/MAINTAINERS", "/.gitignore"}
    for folder in (os.path.join(TOP, "patches/*"), os.path.join(LAB, "patches")):
        for path in glob.glob(os.path.join(folder, BASE, "*.patch")):
            touched.update(line[5:].strip() for line in read(path).splitlines() if line.startswith("+++ b/"))
    with tempfile.TemporaryDirectory(prefix="rig-check-") as scratch:
        repo = os.path.join(scratch, "repo")
        src = os.path.join(repo, "build", f"linux-{BASE}", "src")
        shutil.copytree(TOP, repo, ignore=lambda path, _: {"build", ".git"} if path == TOP else set())
        subprocess.run(["git", "clone", "-q", "-s", "-n", SRC, src], check=True)
        subprocess.run(["git", "-C", src, "sparse-checkout", "set", "--no-cone", *sorted(touched)], check=True)
        subprocess.run(["git", "-C", src, "checkout", "-q", "base"], check=True, stderr=subprocess.DEVNULL)
        for command in ("merge", "refresh", "commit"):
            status, output = run(os.path.join(repo, "rig/tree"), command, cwd=repo, env={
                "BUILD": "build", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"})
            if status:
                return [("patches", 1, f"rig/tree {command}: {output.strip().splitlines()[-1]}")]
        shutil.rmtree(os.path.join(repo, "build"))
        return [(path, 1, "is not the same after rig/tree merge and refresh") for path in differences(TOP, repo)
                if path.split("/")[0] not in ("build", ".git")]


# ---- what the kernel checks while it is built, but not here

KVM_MAKEFILE = "arch/x86/kvm/Makefile"
KVM_FOLDERS = ("virt/kvm/", "arch/x86/kvm/")


def unlisted(makefile, sources):
    """Exports, as places, that a version's list of KVM's exports lacks. sources: the text of each file"""
    if "check_kvm_exports" not in makefile:
        return []
    listed = set(re.findall(r"\s-e (\w+)", makefile))
    return [(path, number, f"{found[1]} is not in the list of exports in {KVM_MAKEFILE}")
            for path, text in sources.items() for number, line in enumerate(text.splitlines(), 1)
            for found in [re.match(r"EXPORT_SYMBOL(?:_GPL)?\((\w+)\)", line)] if found and found[1] not in listed]


def exports(files):
    """KVM's Makefile refuses exports that it does not list, but does not look into our files, which are links"""
    return unlisted(read(os.path.join(SRC, KVM_MAKEFILE)),
                    {path: read(os.path.join(SRC, path)) for path in files if path.startswith(KVM_FOLDERS)})


# ---- what is mailed and what is not

def payload(files):
    """Neither these files nor the text of the series may name the lab, its programs or the rig"""
    programs = sorted(os.path.splitext(os.path.basename(path))[0]
                      for path in glob.glob(os.path.join(LAB, "linux/**/*.c"), recursive=True))
    named = re.compile(r"(?<![\w/])(?:lab|rig)/|\b(?:the|test) rig\b|\b(?:" + "|".join(programs) + r")\b")
    text = glob.glob("patches/**/*.*", root_dir=TOP, recursive=True)
    return [(path, number, f"names {found[0]}")
            for path in sorted([*files, "MAINTAINERS", *(p for p in text if os.path.isfile(os.path.join(TOP, p)))])
            for number, line in enumerate(read(os.path.join(TOP, path)).splitlines(), 1)
            for found in [named.search(line)] if found]


# ---- semantic patches

def flagged(script, path, run):
    """The lines of a file that a semantic patch reports"""
    status, output = run("spatch", "-D", "report", "--very-quiet", "--no-includes", "--macro-file",
                         os.path.join(COCCI, "macros.h"), "--cocci-file", script, path)
    if status:
        return None
    return {int(n) for n in re.findall(r"^\S+?:(\d+):\d+-\d+: ERROR", output, re.M)}


def semantic_patches(run):
    """They must flag exactly the lines marked FLAG in their examples"""
    scripts = {os.path.basename(path)[:-len(".cocci")]: path
               for path in glob.glob(os.path.join(COCCI, "*.cocci"))}
    examples = {os.path.basename(path) for path in glob.glob(os.path.join(COCCI, "*.c"))}
    wanted = {f"{name}-{kind}.c" for name in scripts for kind in ("bad", "good")}
    found = [(os.path.relpath(os.path.join(COCCI, name), TOP), 1, "is an example without a semantic patch, or missing")
             for name in sorted(examples ^ wanted)]
    for name in sorted(examples & wanted):
        path = os.path.join(COCCI, name)
        marked = {n for n, line in enumerate(read(path).splitlines(), 1) if "/* FLAG */" in line}
        lines = flagged(scripts[name.rsplit("-", 1)[0]], path, run)
        path = os.path.relpath(path, TOP)
        if bool(marked) != name.endswith("-bad.c"):
            found.append((path, 1, "a bad example has marks, and a good one has none"))
        if lines is None:
            found.append((path, 1, "spatch failed"))
        else:
            found += [(path, n, "is flagged, and not marked" if n in lines else "is marked, and not flagged")
                      for n in sorted(lines ^ marked)]
    return found or ([] if scripts else [("lab/cocci", 1, "there are no semantic patches")])


# ---- the table of races

def has_test(name):
    """Whether there is a test of that name, as the document writes it"""
    def found(pattern, where):
        return any(re.search(pattern, read(path), re.M)
                   for path in glob.glob(os.path.join(TOP, where), recursive=True))

    if name.startswith("NO_"):
        return found(rf"^#ifn?def {name}$", "lab/models/*.pml")
    if "+" in name:
        return os.path.exists(os.path.join(TOP, f"Documentation/litmus-tests/ioasid/{name}.litmus"))
    if "." in name:
        fixture, test_name = name.split(".")
        return found(rf"TEST_F\w*\(\s*{fixture},\s*{test_name}\b", "tools/testing/selftests/ioasid/*.c")
    return found(rf"KUNIT_CASE\w*\(\s*{name}\b", "drivers/iommu/**/*_test.c")


def races():
    """The document has reasons for each pair, and each reason has a test"""
    path = "Documentation/driver-api/ioasid-internals.rst"
    text = read(os.path.join(TOP, path))
    section = re.search(r"\nRaces\n=+\n(.*?)\n\n\w[^\n]*\n====", text, re.S)
    if not section:
        return [(path, 1, "has no section about races")]
    start, section = line_of(text, section[0]) + 1, section[1]
    reasons = set(re.findall(r"^\*\*([A-Z]), ", section, re.M))
    table = re.split(r"=\n\\ ", section)[1].splitlines()
    names = table[0].split()
    rows = table[2:2 + len(names)]
    found = []
    if [row.split(None, 1)[0] for row in rows] != names:
        found.append((path, start, "rows and columns of the table have different names"))
    columns = [m.start() for m in re.finditer(r"=+", table[1])]
    used = set()
    for number, row in enumerate(rows, 1):
        cells = [row[column:column + 7].split() for column in columns[1:number + 1]]
        if not all(cells):
            found.append((path, line_of(text, row), "a pair has no reason"))
        used.update(letter for cell in cells for letter in cell)
    found += [(path, start, f"reason {letter} is not in the table, or not explained") for letter in sorted(used ^ reasons)]
    tests = re.findall(r"Tested by (.*?)\.\n", section, re.S)
    if len(tests) != len(reasons):
        found.append((path, start, f"{len(tests)} of {len(reasons)} reasons have tests"))
    found += [(path, line_of(text, f"``{name}``"), f"there is no test {name}")
              for names in tests for name in re.findall(r"``(.+?)``", names) if not has_test(name)]
    # The same reasons in the document of the models
    path = "lab/models/README.md"
    text = read(os.path.join(TOP, path))
    rows = re.findall(r"^\| ([A-Z]) \| (.*) \|$", text, re.M)
    found += [(path, 1, "names no rules of the models")] if not rows else []
    return found + [(path, line_of(text, f"| {letter} | "), f"there is no reason {letter}, or no rule {name}")
                    for letter, names in rows for name in names.split() if letter not in reasons or not has_test(name)]


# ---- descriptions for syzkaller

DESCRIPTIONS = "lab/syzkaller/dev_ioasid.txt"
# The descriptions have the first fields of these only; newer kernels have more of the last
BEGINNINGS = ("vfio_device_feature", "vfio_device_attach_iommufd_pt", "vfio_device_bind_iommufd")
# Resources that are described elsewhere
RESOURCES = {"fd": 4, "fd_iommufd": 4, "fd_kvmdev": 4, "ioas_handle": 4}


def described_size(kind, sizes):
    """The type of a field: its base type is the last word"""
    number = re.search(r"\bint(\d+)(\[[^\[\]]*\])?\]?$", kind)
    if kind.startswith("ptr64["):
        return 8
    return int(number[1]) // 8 if number else sizes[kind]


def described(text):
    """Returns C code that compiles if the headers agree, and the commands"""
    text = re.sub(r"^#.*\n|\t\((?:in)?out\)$", "", text, flags=re.M)
    sizes = dict(RESOURCES)
    for name, base in re.findall(r"^resource (\w+)\[(\w+)\]", text, re.M):
        sizes[name] = described_size(base, sizes)
    lines = [f"#define {name} {value}" for name, value in re.findall(r"^define (\w+)\t(.*)", text, re.M)]
    structs = {name: [field.split("\t", 1) for field in body.replace("\t\t", "\t").splitlines()]
               for name, body in re.findall(r"^([\w$]+) \{\n(.*?)^\}", re.sub(r"^\t", "", text, flags=re.M), re.M | re.S)}
    for name in sorted(structs, key=lambda name: name.startswith("vfio_device_feature$")):
        struct, offset = "struct " + name.split("$")[0], 0
        for field, kind in structs[name]:
            size = described_size(kind.strip(), sizes)
            lines.append(f"_Static_assert(offsetof({struct}, {field}) == {offset}, \"{name} {field}\");")
            if field != "data":
                lines.append(f"_Static_assert(sizeof((({struct} *)0)->{field}) == {size}, \"{name} {field}\");")
            offset += size
        sizes[name] = offset
        if name.split("$")[0] not in BEGINNINGS:
            lines.append(f"_Static_assert(sizeof({struct}) == {offset}, \"{name}\");")
    names = re.findall(r"const\[([A-Z]\w*)", text)
    for flags in re.findall(r"^\w+ = (.*)", text, re.M):
        names += re.findall(r"[A-Z]\w+", flags)
    lines += [f"long long value_{name} = {name};" for name in sorted(set(names))]
    return "\n".join(lines) + "\n", set(re.findall(r"cmd const\[(\w+)\]", text))


def compile_described(text):
    """Returns the errors of the compiler, and the commands"""
    with tempfile.TemporaryDirectory() as folder:
        # The headers are not installed, so they still include kernel headers
        os.mkdir(os.path.join(folder, "linux"))
        for header in ("compiler.h", "compiler_types.h"):
            with open(os.path.join(folder, "linux", header), "w", encoding="ascii"):
                pass
        code, commands = described(text)
        code = "".join(f"#include <{header}>\n" for header in (
            "stddef.h", "fcntl.h", "linux/ioasid.h", "linux/kvm.h", "linux/vfio.h")) + code
        found = subprocess.run(
            ["gcc", "-x", "c", "-fsyntax-only", "-D_GNU_SOURCE", "-D__user=", "-Wno-cpp", "-I", folder,
             *(f"-I{SRC}/{include}/uapi" for include in ("include", "arch/x86/include")), "-"],
            input=code, capture_output=True, text=True, check=False)
    return found.stderr, commands


def syzkaller():
    """The descriptions have the sizes, offsets and constants of the headers, and each command"""
    errors, commands = compile_described(read(os.path.join(TOP, DESCRIPTIONS)))
    found = [(DESCRIPTIONS, 1, line) for line in errors.splitlines() if "error: " in line]
    if errors and not found:
        found.append((DESCRIPTIONS, 1, errors.splitlines()[0]))
    header = read(os.path.join(TOP, "include/uapi/linux/ioasid.h"))
    return found + [(DESCRIPTIONS, 1, f"does not describe {name}") for name in
                    sorted(set(re.findall(r"^#define (IOASID_\w+) _IO\(", header, re.M)) - commands)]
