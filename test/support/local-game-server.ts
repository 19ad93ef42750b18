/** A stub game server on loopback, on a port of its own, that answers each update at once. The caller closes it. */
import { Endpoint } from '../../net/address.ts';
import { openDgramSocket } from '../../net/dgram-socket.ts';
import { GameServer } from '../../gameserver/game-server.ts';
import { CODECS } from '../../wire/codec.ts';

export function localGameServer(): GameServer {
  return new GameServer({
    openSocket: openDgramSocket,
    listen: Endpoint.parse('127.0.0.1:0'),
    serverId: 3,
    codec: CODECS.binary,
    reply: 'immediate',
    tickHz: 128,
    matchPlayers: 10,
    forgetMs: 10_000,
  });
}
