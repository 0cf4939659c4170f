# SPDX-License-Identifier: Apache-2.0
"""kinds.py - images with features by chance, made by us or by QEMU, each with a model beside it."""
import os

from commands import MIB, SECTOR, run


class Image:
    """@our(*words) does what ops.c knows with it: a verb, behind which the image is named."""

    checks = True  # qemu-img does
    share = 0.5  # is made by us
    writable = True

    def __init__(self, form, rng, folder, our):
        self.form, self.rng, self.folder, self.our = form, rng, folder, our
        self.path, self.model = os.path.join(folder, "image"), os.path.join(folder, "model")
        self.by_us = True

    def blank(self):
        with open(self.model, "wb") as f:
            f.truncate(self.size)

    def judge(self, status=0):
        """By qemu-img, where it knows how."""
        return run("qemu-img", "check", "-q", "-f", self.theirs, self.path, status=status) if self.checks else None


class Qcow2(Image):
    theirs = "qcow2"

    def __init__(self, rng, folder, our, most=8 * MIB):
        super().__init__("qcow2", rng, folder, our)
        self.features = self.pick(most)
        self.size = self.features["size"]

    def __str__(self):
        return f"qcow2 {self.features} by {'us' if self.by_us else 'QEMU'}"

    def pick(self, most):
        r = self.rng
        f = {"version": r.choice([2, 3, 3, 3]), "cluster": 1 << r.randint(9, 21), "refcount": 16,
             "zstd": 0, "lazy": 0, "extended": 0, "backing": None, "data": None, "prealloc": 0}
        # Tables of tiny clusters are many.
        f["size"] = SECTOR * r.randint(1, (most if f["cluster"] > 512 else min(most, 2 * MIB)) // SECTOR)
        if f["version"] == 3:
            f["refcount"] = 1 << r.randint(0, 6)
            f["zstd"], f["lazy"] = r.randint(0, 1), r.choice([0, 0, 1])
            f["extended"] = int(f["cluster"] >= 16384 and r.random() < 0.4)
            if r.random() < 0.12:
                f["data"] = os.path.join(self.folder, "data")
        if not f["data"] and r.random() < 0.4:
            f["backing"] = r.choice(["raw", "qcow2", "short"])
        elif r.random() < 0.2:
            f["prealloc"] = r.randint(1, 3)
        return f

    def make_backing(self):
        kind, size = self.features["backing"], self.size
        if kind == "short":
            size = max(SECTOR, size // 2 - size // 2 % SECTOR)
        base = os.path.join(self.folder, "base")
        content = self.rng.randbytes(size)
        with open(base + ".raw", "wb") as f:
            f.write(content)
        if kind == "qcow2":
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", base + ".raw", base)
            os.unlink(base + ".raw")
        else:
            os.rename(base + ".raw", base)
        with open(self.model, "wb") as f:
            f.write(content + bytes(self.size - size))

    def create(self):
        f = self.features
        below = "qcow2" if f["backing"] == "qcow2" else "raw"
        self.make_backing() if f["backing"] else self.blank()
        if f["data"]:
            open(f["data"], "wb").close()
        self.by_us = self.rng.random() < self.share
        if self.by_us:
            # QEMU takes a relative name as relative to where it was started: the data file's is absolute.
            keys = [f"{k}={v}" for k, v in f.items() if v is not None and k not in ("size", "backing")]
            self.our("create", self.path, self.size, *keys, *(["backing=base", "format=" + below] if f["backing"] else []))
            return
        options = f"cluster_size={f['cluster']},compat={'1.1' if f['version'] == 3 else '0.10'}"
        options += ",preallocation=" + ["off", "metadata", "falloc", "full"][f["prealloc"]]
        if f["version"] == 3:
            options += f",refcount_bits={f['refcount']},lazy_refcounts={'on' if f['lazy'] else 'off'}"
            options += f",compression_type={'zstd' if f['zstd'] else 'zlib'}"
            options += f",extended_l2={'on' if f['extended'] else 'off'}"
        options += f",data_file={f['data']}" if f["data"] else ""
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *(["-b", "base", "-F", below] if f["backing"] else []),
            self.path, self.size)

    def new_size(self, most, by_us):
        """One that it may be given, or None."""
        size = SECTOR * self.rng.randint(1, most // SECTOR)
        # QEMU does not grow an overlay of version 2: it has no clusters of zeros to hide what is below.
        if not by_us and self.features["version"] < 3 and self.features["backing"]:
            return None
        if not by_us and size < os.path.getsize(self.model):
            # What QEMU cuts off within a cluster comes back when the disk grows again.
            size += -size % self.features["cluster"]
        return size


def vdi(rng):
    return rng.choice(["", "", "", "static=on"]), None


def vhd(rng):
    kind = rng.choice(["subformat=dynamic", "subformat=dynamic", "subformat=fixed"])
    return kind, kind + ",force_size=on"


def vmdk(rng):
    kind = "subformat=" + rng.choice(["monolithicSparse"] * 3 + ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
    return kind + rng.choice(["", "", ",zeroed_grain=on"] if "Sparse" in kind else [""]), None


def vhdx(rng):
    kind = rng.choice(["subformat=dynamic", "subformat=dynamic", "subformat=fixed"])
    return kind + rng.choice(["", ",block_size=1M", ",block_size=1M,block_state_zero=off", ",log_size=2M"]), None


def parallels(rng):
    return rng.choice(["", "cluster_size=64k", "cluster_size=2M"]), None


# What we only read.
READ_ONLY = ["parallels"]
# What QEMU calls the format; options by chance, for us and for QEMU where it needs others; does it check.
FORMS = {
    "vdi": ("vdi", vdi, True),
    "vhd": ("vpc", vhd, False),
    "vmdk": ("vmdk", vmdk, True),
    "vhdx": ("vhdx", vhdx, True),
    "parallels": ("parallels", parallels, True),
}


class Form(Image):
    """An image of one of the other formats."""

    def __init__(self, form, rng, folder, our, most=16 * MIB):
        super().__init__(form, rng, folder, our)
        self.path += ".x"
        self.theirs, pick, self.checks = FORMS[form]
        self.options, self.their_options = pick(rng)
        self.size = SECTOR * rng.randint(1, rng.choice([min(MIB, most), most // 4, most]) // SECTOR)
        self.writable = form not in READ_ONLY

    def __str__(self):
        return f"{self.form} of {self.size} '{self.options}' by {'us' if self.by_us else 'QEMU'}"

    def make_base(self):
        """What a VMDK image of QEMU's may stand on."""
        base = os.path.join(self.folder, "base.vmdk")
        with open(self.model, "wb") as f:
            f.write(self.rng.randbytes(self.size))
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", self.model, base)
        return ["-b", base, "-F", "vmdk"]

    def create(self):
        split = "Extent" in self.options or "Flat" in self.options  # we make none of these
        self.by_us = self.writable and self.rng.random() < self.share and not split
        self.blank()
        if self.by_us:
            self.our("create", self.path, self.size, *([self.options] if self.options else []))
            return
        options = self.options if self.their_options is None else self.their_options
        based = "monolithicSparse" in self.options and self.rng.random() < 0.5
        run("qemu-img", "create", "-q", "-f", self.theirs, *(["-o", options] if options else []),
            *(self.make_base() if based else []), self.path, self.size)


def image(form, *where, **more):
    return Qcow2(*where, **more) if form == "qcow2" else Form(form, *where, **more)
