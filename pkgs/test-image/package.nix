# A small image that needs no registry: a shell, busybox's tools, Python. For the VM tests.
{
  dockerTools,
  busybox,
  python3Minimal,
}:
dockerTools.buildLayeredImage {
  name = "flashpods/test";
  tag = "latest";
  contents = [
    busybox
    python3Minimal
  ];
  extraCommands = ''
    mkdir -p tmp work artifacts usr/local/bin
    chmod 1777 tmp
  '';
  config.Env = [ "PATH=/usr/local/bin:/bin" ];
}
