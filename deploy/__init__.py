"""Container images, KubeRay manifests and monitoring live here."""
