"""klieg: explain what an image classifier saw, on any machine that can run forward inference."""

if __name__ != "klieg":
    raise ImportError("this is the source folder of klieg: install the project and `import klieg`")
