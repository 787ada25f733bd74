"""Build the optional pixel kernel; everything else is in pyproject.toml.

Without a compiler the installation goes on, and Platevault takes a slower codec at run time.
"""

from setuptools import Extension, setup

# -O3 whatever the interpreter was built with: sums and scalar loops need it. Nothing here depends
# on the building machine: functions that need more than the baseline are chosen at run time.
setup(
    ext_modules=[
        Extension(
            "platevault.adapters.fits._kernel",
            sources=[f"native/{name}.c" for name in ("avx2", "kernel", "module", "portable")],
            depends=["native/kernel.h", "native/rice.h"],
            extra_compile_args=[
                *("-std=c11", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"),
            ],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
