export FLASHPODS_CONFIG=/etc/flashpods/client.json
