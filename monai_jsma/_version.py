# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The version of the package, which records and pages name."""

__version__ = "0.1.0"
