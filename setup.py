from setuptools import find_packages, setup

# all metadata are in pyproject.toml; configs/ goes into the wheel as stmn_plugin/configs
PACKAGES = [*find_packages(include=['stmn_plugin*']), 'stmn_plugin.configs']
setup(packages=PACKAGES, package_dir={'stmn_plugin.configs': 'configs'})
