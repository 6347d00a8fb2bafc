# The agents' image, an archive for `podman load`: see README.md here for what is in it and why.
{
  dockerTools,
  runCommand,
  cacert,
  coreutils,
  gnugrep,
  gitMinimal,
  bashInteractive,
  agentPackages ? [ ],
}:
let
  entrypoint = runCommand "flashpods-agent-entrypoint" { } ''
    install -D -m 0755 ${./entrypoint.sh} $out/entrypoint.sh
  '';
in
dockerTools.buildLayeredImage {
  name = "flashpods/agent";
  tag = "latest";
  contents = [
    entrypoint
    bashInteractive # /bin/sh
    coreutils
    gnugrep
    gitMinimal
    cacert
    dockerTools.usrBinEnv
    dockerTools.fakeNss
  ]
  ++ agentPackages;
  # The helper is mounted there, and jobs run as a user that the image does not know.
  extraCommands = ''
    mkdir -p usr/local/bin tmp work artifacts
    chmod 1777 tmp
  '';
  config = {
    Entrypoint = [ "/entrypoint.sh" ];
    Env = [
      "PATH=/usr/local/bin:/bin"
      "SSL_CERT_FILE=${cacert}/etc/ssl/certs/ca-bundle.crt"
      "GIT_SSL_CAINFO=${cacert}/etc/ssl/certs/ca-bundle.crt"
    ];
  };
}
