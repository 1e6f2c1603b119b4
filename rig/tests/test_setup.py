# SPDX-License-Identifier: GPL-2.0-only
"""rig/setup, with an apt of a few lines of shell"""
import os

from support import Case, Scratch


class Debian(Scratch):
    """A system with an apt of a few lines, and no package but those given"""

    def __init__(self, answers, packages="", user=0):
        super().__init__()
        self.asked = self.path("asked")
        self.stub("dpkg-query", "".join(f"echo 'installed {name} 1'\n" for name in packages.split()))
        self.stub("id", f"echo {user}\n")
        self.stub("apt-cache", "")
        self.stub("apt-get", f"""\
echo "$*" >>{self.asked}
case "$*" in
*indextargets*SITE*) . /etc/os-release; echo "site $VERSION_CODENAME" ;;
*indextargets*) echo first; echo second ;;
*Dir::Etc*) set -- "$(cut -d ' ' -f 3 {self.repo}/build/packages/apt/sources.list | tail -n 1) $*" ;;
esac
case "$*" in
{answers}
esac
""")

    def stub(self, name, text):
        self.write(f"bin/{name}", "#!/bin/sh\n" + text)
        os.chmod(self.path(f"bin/{name}"), 0o755)

    def path_variable(self):
        return self.path("bin") + ":" + os.environ["PATH"]
ALL_PACKAGES = ("bc bison flex gcc gcc-multilib git libc6-dev libcap-dev libelf-dev make patch python3 xz-utils "
                "libglib2.0-dev ninja-build pkg-config python3-setuptools python3-venv zlib1g-dev busybox-static "
                "qemu-system-data seabios")
NO_SUCH_FILE = "echo 'E: Failed to fetch pool/x.deb  404  Not Found'; exit 100 ;;"
NO_ANSWER = "echo 'W: Failed to fetch InRelease  Temporary failure resolving'; exit 100 ;;"
DEBS = "*download\\ meson*) touch a.deb ;; *source\\ *) touch qemu_10.orig.tar.xz ;;"


def setup(system, status=0, *what):
    system.stub("dpkg-deb", 'mkdir -p "$3/usr/bin"; touch "$3/usr/bin/meson"; chmod +x "$3/usr/bin/meson"\n')
    if status:
        return system.fails("rig/setup", *what, PATH=system.path_variable())
    return system.run("rig/setup", *what, PATH=system.path_variable())


class SetupTest(Case):
    def test_setup_needs_neither_root_nor_network_twice(self):
        with Debian(DEBS, ALL_PACKAGES) as s:
            setup(s)
        with Debian("*) exit 100 ;;", ALL_PACKAGES, user=1000) as s:
            for name in ("meson/usr/bin/meson", "qemu/qemu_10.orig.tar.xz"):
                s.write(f"repo/build/packages/{name}", "")
                os.chmod(s.path(f"repo/build/packages/{name}"), 0o755)
            self.assertEqual(setup(s), "")
            self.assertEqual(os.path.exists(s.asked), False)

    def test_setup_without_root_says_what_is_missing(self):
        with Debian("", ALL_PACKAGES.replace("bc ", ""), user=1000) as s:
            self.assertHolds(setup(s, 1), "needs root", "install bc")

    def test_setup_without_network_says_so(self):
        with Debian(f"*update*) ;; *install*) {NO_ANSWER}") as s:
            self.assertHolds(setup(s, 1), "install packages: no network", "setup.log")
        with Debian(f"*update*|*download*) {NO_ANSWER}", ALL_PACKAGES) as s:
            self.assertHolds(setup(s, 1), "fetch meson.debs: no network")

    def test_setup_says_that_no_suite_has_the_kernel(self):
        with Debian("*linux-source*) echo 'E: Unable to locate package linux-source-9.9'; exit 100 ;;", ALL_PACKAGES) as s:
            self.assertHolds(s.fails("rig/setup", PATH=s.path_variable(), KERNEL_SRC="", BASE="9.9"),
                             "fetch linux-9.9.debs: no suite has it", "KERNEL_SRC=DIR")

    def test_setup_tries_another_suite_when_the_mirror_misses_a_file(self):
        with Debian(f"{DEBS} *-t\\ second*install*|*install*-t\\ second*) ;; *install*) {NO_SUCH_FILE}") as s:
            self.assertHolds(setup(s), "trying suite first", "trying suite second")
        with Debian(f"*install*) {NO_SUCH_FILE}") as s:
            self.assertHolds(setup(s, 1), "misses a file in every suite")
        with Debian(f"trixie\\ *source\\ *|*backports\\ *meson*) {NO_SUCH_FILE} {DEBS}", ALL_PACKAGES) as s:
            setup(s)
            self.assertHolds(s.read(s.asked), "source --download-only qemu")

    def test_setup_fetches_the_kernel_that_the_metapackages_name(self):
        with Debian(f"*download\\ linux-image*) touch a.deb ;; *download\\ libc6*) touch b.deb ;; {DEBS}", ALL_PACKAGES) as s:
            s.stub("apt-cache", "printf '%s\\n' linux-image-cloud-amd64 linux-image-7-cloud-amd64 linux-base "
                   "linux-image-7-cloud-amd64-unsigned linux-headers-7-common linux-kbuild-7 libc6\n")
            setup(s, 0, "kernel:old")
            self.assertHolds(s.read(s.asked), " download linux-image-7-cloud-amd64 linux-headers-7-common linux-kbuild-7\n",
                             " download libc6\n")
            self.assertEqual(os.listdir(s.path("repo/build/packages/kernel-old.debs")), ["a.deb"])
            # The metapackage is there, and what it names is not
            s.stub("apt-cache", "echo linux-image-cloud-amd64\n")
            self.assertHolds(setup(s, 1, "kernel:new"), "fetch kernel-new.debs")
