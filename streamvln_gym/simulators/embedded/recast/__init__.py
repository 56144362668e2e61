"""Builds navigation meshes from triangles as Recast does: voxels, filters, regions, contours, polygons, details.

The steps are those of Recast Navigation 1.6.0 (M. Mononen and others, zlib licence) in the order in which habitat-sim's
`PathFinder::build` calls them, in integers and float32 as there, so that the polygons are Recast's. One file per step.
"""

from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings

__all__ = ["NavMeshSettings"]
