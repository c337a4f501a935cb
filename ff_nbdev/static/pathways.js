(function(){
var root=document.currentScript.parentNode,D=DATA,NS='http://www.w3.org/2000/svg';
var plot=root.querySelector('.plot'),say=root.querySelectorAll('.say'),items=Array.from(root.querySelectorAll(
'.item')),on=new Set(D.on),hot=-1;
var H=D.h.map(function(t){return t.split(',').map(function(s){return s.split('|').map(function(g){return (g.match(
/.{5}/g)||[]).map(function(c){
return [parseInt(c.slice(0,3),36),parseInt(c.slice(3),36)/1295]})})})});
function x(s,p){return D.x+D.w*p/D.d[s]} function y(s){return D.y+D.r*s}
function tone(t){var i=Array.from(on).indexOf(t);return D.p[(i+1?i:on.size)%D.p.length]}
function make(tag,a,into){var e=document.createElementNS(NS,tag);Object.keys(a).forEach(function(k){e.setAttribute(k,
a[k])});into.appendChild(e);return e}
function within(a,b,d){return Math.max(Math.abs(a-b),d)===d}
function near(t,s,g,p){return D.t.map(function(_,u){return u}).filter(function(u){return u===t?false:H[u][s][g].some(
function(h){return within(h[0],p,D.n[s])})})}
function tell(t,s,g,h){var n=near(t,s,g,h[0]),names=n.map(function(u){return D.t[u]}).join(' ');
say[0].textContent=D.t[t]+' · '+D.s[s]+' · place '+h[0]+' of '+D.d[s]+' · power '+'+−'[g]+(h[1]*D.m[s]).toPrecision(2);
say[1].textContent=n.length?'shares this place with '+n.length+': '+(names.slice(D.c)?names.slice(0,D.c)+'…':names):
'no listed token shares this place';
items.forEach(function(e,u){e.classList.toggle('near',n.includes(u))})}function draw(){plot.textContent='';var show=Array.from(on);if(hot+1){show=show.filter(function(t){
return t!==hot});show.push(hot)}
items.forEach(function(e,u){e.setAttribute('aria-checked',on.has(u));e.querySelector('circle').setAttribute('fill',
on.has(u)?tone(u):'none')});
show.forEach(function(t){var o=hot+1?(t===hot?1:.18):1,G=make('g',{opacity:o},plot);
function tint(g){return show.length===1?['#b2182b','#2166ac'][g]:tone(t)}
H[t].forEach(function(site,s){site.forEach(function(hubs,g){var next=D.k[s]?H[t][s+1][g][0]:null;
if(hubs.length)if(next)make('line',{x1:x(s,hubs[0][0]),y1:y(s),x2:x(s+1,next[0]),y2:y(s+1),stroke:tint(g),
'stroke-width':.5+4*Math.min(hubs[0][1],next[1]),'stroke-opacity':.35,'stroke-dasharray':g?'4 2':'none'},G)})});
H[t].forEach(function(site,s){site.forEach(function(hubs,g){hubs.forEach(function(h){
var full=show.length===1?true:g===0,c=make('circle',{cx:x(s,h[0]),cy:y(s),r:1+7*Math.sqrt(h[1]),fill:full?tint(g):
'white',stroke:tint(g),'stroke-width':1.5,tabindex:0,role:'img','class':'hub',
'aria-label':D.t[t]+', '+D.s[s]+', place '+h[0]+', '+['positive','negative'][g]},G);
['mouseenter','focus'].forEach(function(e){c.addEventListener(e,function(){tell(t,s,g,h)})})})})})})}
items.forEach(function(e,u){function flip(){if(!on.delete(u))on.add(u);draw()}
e.addEventListener('click',flip);e.addEventListener('keydown',function(k){if([' ','Enter'].includes(k.key)){
k.preventDefault();flip()}});
['mouseenter','focus'].forEach(function(n){e.addEventListener(n,function(){hot=u;draw()})});
['mouseleave','blur'].forEach(function(n){e.addEventListener(n,function(){hot=-1;draw()})})});draw()})();