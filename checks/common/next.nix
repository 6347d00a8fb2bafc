# HOST's next generation: other programs, whose database has one migration more, and a change to each part.
{ pkgs, ... }:
let
  ours = import ../../pkgs { inherit pkgs; };
in
{
  services.flashpods = {
    package = ours.flashpods.overrideAttrs (old: {
      name = "flashpods-next-${old.version}";
      postPatch = (old.postPatch or "") + ''
        cat ${./next_schema.py} >>src/flashpods/adapters/sqlite/migrations.py
      '';
    });
    settings.http.rate_per_second = 200;
    podman.containersConf.engine.image_parallel_copies = 2;
    spire.server.settings.server.log_level = "DEBUG";
    spire.agent.settings.agent.log_level = "DEBUG";
    firewall.allowedDestinations = [ "192.168.7.0/24" ];
    validation.enable = true; # the switch to it ends with the checks
  };
}
